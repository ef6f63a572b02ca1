# Leased credentials for a process of the host. Its files are in $NOMAD_SECRETS_DIR.
job "raw_exec-database" {
  group "app" {
    constraint {
      attribute = "${attr.driver.raw_exec.secrets}"
      operator  = "is_set"
    }

    task "app" {
      driver = "raw_exec"

      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }

      config {
        command = "/bin/sh"
        args    = ["-c", "trap exit INT TERM; while true; do sleep 1; done"]
        role    = "raw_exec-database"

        secret "db" {
          path = "database/creds/app"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }

          file "db.env" {
            template = "user={{ .username }}\npassword={{ .password }}\n"
          }
        }
      }
    }
  }
}
