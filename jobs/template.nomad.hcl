# One file made from several secrets, by their names. When one of them changes, the file is made anew
# and the task restarted.
job "template" {
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
        role    = "template"

        secret "db" {
          path = "database/creds/app"
        }

        secret "app" {
          path = "secret/app-1"
        }

        file "app.conf" {
          template = <<-EOT
            user={{ .db.username }}
            password={{ .db.password }}
            api_key={{ .app.api_key | quote }}
          EOT
        }
      }
    }
  }
}
