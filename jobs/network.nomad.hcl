# A group network in bridge mode, as under the built-in driver. Its address belongs to the allocation
# and stays the same over in-place restarts.
job "network" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }

    network {
      mode = "bridge"

      port "http" {
        to = 8080
      }
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
        role    = "network"

        secret "app" {
          path       = "secret/app-1"
          env_prefix = "APP_"
        }
      }
    }
  }
}
