# Two web servers behind a load balancer, which sees by /health when one of them is about to be restarted.
variable "name" {
  type    = string
  default = "finishing"
}
variable "stagger" {
  type    = string
  default = "20s"
}
job "finishing" {
  id   = var.name
  name = var.name
  group "web" {
    count = 2
    network {
      mode = "host"
      port "http" {}
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
        image        = "${meta.image}"
        network_mode = "host"
        command      = "testapp"
        args         = ["http", "127.0.0.1:${NOMAD_PORT_http}"]
        role         = "finishing"

        pre_stop_signal = "SIGHUP"
        pre_stop_wait   = "4s"
        stop_timeout    = "3s"
        splay           = "0s"
        stagger         = var.stagger

        secret "app" {
          path = "secret/finishing"
          env  = { COLOUR = "colour" }
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
