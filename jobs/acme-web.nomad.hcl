# A web server with a certificate that the job acme-issuer renews. Certificate and key change as one set, and then the
# server gets SIGHUP, on which nginx takes them up and goes on with the connections that it has.
variable "image" {
  default = "nginx:1.29"
}

variable "command" {
  default = "nginx"
}

variable "args" {
  type    = list(string)
  default = ["-c", "/local/nginx.conf", "-g", "daemon off;"]
}

job "acme-web" {
  group "web" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }

    network {
      port "https" {}
    }

    task "web" {
      driver = "docker"

      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }

      template {
        destination = "local/nginx.conf"
        data        = <<-CONF
          events {}
          http {
            server {
              listen              {{ env "NOMAD_PORT_https" }} ssl;
              ssl_certificate     /secrets/tls/fullchain.pem;
              ssl_certificate_key /secrets/tls/key.pem;
              return              200;
            }
          }
        CONF
      }

      config {
        image        = var.image
        command      = var.command
        args         = var.args
        network_mode = "host"
        role         = "acme-web"

        secret "tls" {
          path          = "secret/tls/acme-web"
          change_mode   = "signal"
          change_signal = "SIGHUP"

          file "tls/fullchain.pem" {
            field = "fullchain"
          }
          file "tls/key.pem" {
            field = "private_key"
          }
        }
      }
    }
  }
}
