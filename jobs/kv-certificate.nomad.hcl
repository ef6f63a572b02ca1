# A certificate that another program renews into KV, as an ACME client does. When it has written the new
# one, both files change as one set, and then the process gets SIGHUP: what it reads at that moment is a
# pair. A key that is stored as base64 would take `decode = "base64"` in its file block.
job "kv-certificate" {
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
        role    = "kv-certificate"

        secret "tls" {
          path          = "secret/tls/web"
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
