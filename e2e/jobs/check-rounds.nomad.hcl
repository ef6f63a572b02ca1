# A script check while the program is restarted, which is not ready at once. By mode, its secret restarts it or not.
variable "name" {
  type = string
}
variable "driver" {
  type = string
}
variable "mode" {
  type = string
}
variable "takes" { # the check, in seconds
  type = string
}
job "check-rounds" {
  id   = var.name
  name = var.name
  group "g" {
    service {
      name = var.name
      task = "app"
      check {
        type     = "script"
        name     = "colour"
        interval = "1s"
        timeout  = "30s"
        command  = "/bin/sh"
        args     = ["-c", "sleep ${var.takes}; test -e $NOMAD_TASK_DIR/ready && echo $COLOUR"]
      }
    }
    task "app" {
      driver = var.driver
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        image   = var.driver == "docker" ? "${meta.image}" : null
        command = "/bin/sh"
        args = ["-c", <<-EOT
          rm -f $NOMAD_TASK_DIR/ready
          echo start
          sleep 1.5
          touch $NOMAD_TASK_DIR/ready
          trap 'sleep 0.5; exit' TERM
          while :; do sleep 0.1; done
          EOT
        ]
        role = var.name
        secret "app" {
          path        = "secret/${var.name}"
          env         = { COLOUR = "colour" }
          splay       = "0s"
          change_mode = var.mode
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
