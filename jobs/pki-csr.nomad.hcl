# A certificate whose key is made on the node: Vault signs a request, and never has the key. Beside certificate and
# key as text there is a keystore with both and the chain, for a program in Java.
job "pki-csr" {
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
        role    = "pki-csr"

        secret "tls" {
          path          = "pki/sign/web"
          params        = { ttl = "24h" }
          change_mode   = "signal"
          change_signal = "SIGHUP"

          csr {
            common_name = "web.example.com"
            dns_names   = ["www.example.com"]
            key_type    = "rsa"
          }

          file "tls/cert.pem" {
            template = "{{ .certificate }}\n{{ .issuing_ca }}\n"
          }
          file "tls/key.pem" {
            field = "private_key"
          }
          file "tls/web.p12" {
            template = "{{ pkcs12 .certificate .private_key .ca_chain \"changeit\" }}"
          }
        }
      }
    }
  }
}
