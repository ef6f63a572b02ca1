# When the secret changes, the files are swapped, then the script runs in the task. If it fails, that
# is a task event; the task runs on.
job "change-script" {
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
        role    = "change-script"

        secret "app" {
          path        = "secret/app-1"
          files       = true
          change_mode = "script"

          change_script {
            command = "/bin/sh"
            args    = ["-c", "echo changed >> /local/changes"]
            timeout = "10s"
          }
        }
      }
    }
  }
}
