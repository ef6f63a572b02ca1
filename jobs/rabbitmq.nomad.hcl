# A RabbitMQ user of the task's own, as it is needed for AMQP. The old one is deleted when the restarted
# task has the new.
job "rabbitmq" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }

    task "app" {
      driver = "docker"

      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }

      config {
        image   = "secrets-demo/busybox:1"
        command = "sh"
        args    = ["-c", "trap exit INT TERM; while true; do sleep 1; done"]
        role    = "rabbitmq"

        secret "mq" {
          path = "rabbitmq/creds/app"
          env  = { MQ_USER = "username", MQ_PASSWORD = "password" }
        }
      }
    }
  }
}
