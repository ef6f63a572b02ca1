# A directory that always has the secret as it is now: cat /run/app-1/password. ls shows it empty. Nothing is restarted when the
# secret changes: the program reads a field when it needs it.
job "live-docker" {
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
        role    = "live-docker"

        secret "app" {
          path       = "secret/app-1"
          live_dir   = "/run/app-1"
          live_stale = "15m" # how long the last values are served while the server is away
        }
      }
    }
  }
}
