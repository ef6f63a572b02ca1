# The token is the one of the job's vault block, which Nomad makes and renews; the role there carries
# the policies. change_mode is Nomad's: what it does when it replaces that token. Rotated secrets follow
# the change_mode of the secret, which is restart by default.
job "vault-block" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }

    task "app" {
      driver = "docker"

      vault {
        role        = "vault-block"
        change_mode = "restart"
      }

      config {
        image   = "secrets-demo/busybox:1"
        command = "sh"
        args    = ["-c", "trap exit INT TERM; while true; do sleep 1; done"]

        secret "db" {
          path = "database/creds/app"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }
        }
      }
    }
  }
}
