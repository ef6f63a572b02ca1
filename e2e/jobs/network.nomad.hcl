# A web server whose page is a secret. The network block and the option of the driver differ.
variable "name" {
  type = string
}
variable "mode" {
  type    = string
  default = ""
}
variable "to" {
  type        = number
  description = "the port in the container; 0: the same as outside"
  default     = 0
}
variable "ports" {
  type    = list(string)
  default = null
}
variable "network_mode" {
  type    = string
  default = null
}
variable "listen" {
  type = string
}
job "network" {
  id   = var.name
  name = var.name
  group "g" {
    network {
      mode = var.mode
      port "http" {
        to = var.to
      }
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
      config {
        image        = "${meta.image}"
        command      = "sh"
        args         = ["-c", "echo start $COLOUR; exec httpd -f -p ${var.listen} -h /secrets/app"]
        ports        = var.ports
        network_mode = var.network_mode
        role         = "networks"
        secret "app" {
          path  = "secret/networks"
          env   = { COLOUR = "colour" }
          files = true
          splay = "0s"
        }
      }
    }
  }
}
