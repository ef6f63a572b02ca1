# A job that declares no secret: it gets what its policies grant. The role that the vault block names
# carries the policies (see orders.hcl beside this file; `policies` in a vault block is dropped by Nomad since
# 1.10). The operator has set from_policies = "all" in the plugin's secrets block.
#
# What the task gets, each secret named after the last element of its path:
#   ORDERS_DB_USERNAME, ORDERS_DB_PASSWORD    of database/creds/orders-db, and files orders-db/<field>
#   ORDERS_MQ_USERNAME, ORDERS_MQ_PASSWORD    of rabbitmq/creds/orders-mq, and files orders-mq/<field>
#   TLS_CERT, TLS_KEY                         of secret/orders/tls, and files tls/cert, tls/key
#
# change_mode is Nomad's, for the token. When a secret changes, the task is restarted in place: that is
# the driver's default.
job "orders-raw_exec" {
  group "app" {
    constraint {
      attribute = "${attr.driver.raw_exec.secrets}"
      operator  = "is_set"
    }

    task "app" {
      driver = "raw_exec"

      vault {
        role        = "orders"
        change_mode = "restart"
      }

      config {
        command = "/bin/sh"
        args    = ["-c", "echo start $ORDERS_DB_USERNAME $ORDERS_MQ_USERNAME; trap exit INT TERM; while true; do sleep 1; done"]
      }
    }
  }
}
