# Files of secrets that the container has at places of its own, too: one by volumes, a directory by mount. Its user is the job's.
variable "name" {
  type = string
}
job "bound-by-name" {
  id   = var.name
  name = var.name
  group "g" {
    task "web" {
      driver = "docker"
      user   = "4321"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        image   = "${meta.image}"
        command = "/bin/sh"
        args    = ["-c", "echo conf=$(cat /etc/app.conf) tls=$(cat /etc/tls/key.pem) own=$(cat /secrets/app.conf); stat -c '%u %a' /etc/app.conf /etc/tls/key.pem; exec sleep 1000"]
        role    = var.name
        volumes = ["secrets/app.conf:/etc/app.conf"]
        mount {
          type     = "bind"
          source   = "secrets/tls"
          target   = "/etc/tls"
          readonly = true
        }
        secret "app" {
          path  = "secret/${var.name}"
          splay = "0s"
          file "app.conf" { template = "colour {{ .colour }}" }
          file "tls/key.pem" { field = "colour" }
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
