# A web server whose page is a secret, on a user-defined Docker network. Its service is registered at the container's address.
variable "name" {
  type = string
}
variable "network" {
  type = string
}
job "network-own" {
  id   = var.name
  name = var.name
  group "g" {
    restart {
      attempts = 1
      interval = "10m"
      delay    = "1s"
      mode     = "fail"
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
      service {
        name         = var.name
        provider     = "nomad"
        address_mode = "driver"
        port         = "8080"
      }
      config {
        image        = "${meta.image}"
        command      = "sh"
        args         = ["-c", "echo start $COLOUR; exec httpd -f -p 8080 -h /secrets/app"]
        network_mode = var.network
        role         = var.name
        secret "app" {
          path  = "secret/${var.name}"
          env   = { COLOUR = "colour" }
          files = true
          splay = "0s"
        }
      }
    }
  }
}
