# When the secret changes, the files are swapped and nothing else is done: for programs that read
# the file each time they need it.
job "change-noop" {
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
        role    = "change-noop"

        secret "app" {
          path        = "secret/app-1"
          files       = true
          change_mode = "noop"
        }
      }
    }
  }
}
