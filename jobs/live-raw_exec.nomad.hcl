# The same for a process of the host: $NOMAD_SECRETS_DIR/live/app-1/password. The secret's user is a variable, too, and so the
# program gets a SIGHUP when the secret changes; live_listing shows the fields' names.
job "live-raw_exec" {
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
        args    = ["-c", "trap exit INT TERM; trap 'echo hangup' HUP; while true; do sleep 1; done"]
        role    = "live-raw_exec"

        secret "app" {
          path          = "secret/app-1"
          live_dir      = "live/app-1"
          live_listing  = true
          env           = { APP_USER = "username" }
          change_mode   = "signal"
          change_signal = "SIGHUP"
        }
      }
    }
  }
}
