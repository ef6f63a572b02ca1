# A certificate with its key and chain. params make the request a write. Files change as one set: who
# opens the directory once, then both files in it, gets a key that matches its certificate. When the mount's
# issuer is replaced, the next certificate is of the new one. Those who trust it read pki/cert/ca_chain (no
# params, the field certificate), and get the new chain.
job "pki" {
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
        role    = "pki"

        secret "tls" {
          path          = "pki/issue/web"
          params        = { common_name = "web.example.com", ttl = "24h" }
          change_mode   = "signal"
          change_signal = "SIGHUP"

          file "tls/cert.pem" {
            template = "{{ .certificate }}\n{{ .issuing_ca }}\n"
          }
          file "tls/key.pem" {
            field = "private_key"
          }
        }
      }
    }
  }
}
