# The job of the README: a container with database credentials in its environment. It is restarted
# in place with new ones before they end.
job "readme" {
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
        role    = "readme"

        secret "db" {
          path = "database/creds/app"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }
        }
      }
    }
  }
}
