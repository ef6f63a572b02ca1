# When the secret changes, the files are swapped, then the process gets SIGHUP. (The environment of a
# running process cannot change: use files.)
job "change-signal" {
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
        args    = ["-c", "trap 'echo reloaded' HUP; trap exit INT TERM; while true; do sleep 1; done"]
        role    = "change-signal"

        secret "app" {
          path          = "secret/app-1"
          files         = true
          change_mode   = "signal"
          change_signal = "SIGHUP"
        }
      }
    }
  }
}
