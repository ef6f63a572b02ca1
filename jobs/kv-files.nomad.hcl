# Every field as a file (/secrets/app/username …), and one file with a mode and an owner of its own.
# Files are 0400 and belong to the user that the task runs as, unless said otherwise.
job "kv-files" {
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
        role    = "kv-files"

        secret "app" {
          path  = "secret/app-1"
          files = true

          file "shared/password" {
            field = "password"
            perms = "0440"
            uid   = 1000
            gid   = 1000
          }
        }
      }
    }
  }
}
