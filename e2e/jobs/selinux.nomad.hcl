# A container of another user says what it has, and under which label it runs.
variable "name" {
  type = string
}
job "selinux" {
  id   = var.name
  name = var.name
  group "g" {
    task "app" {
      driver = "docker"
      user   = "nobody"
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
        args    = ["-c", "echo start $COLOUR $(cat /secrets/app/colour) $(cat /run/app/colour) in $(cat /proc/self/attr/current); exec sleep 1000"]
        role    = var.name
        secret "app" {
          path     = "secret/${var.name}"
          env      = { COLOUR = "colour" }
          files    = true
          live_dir = "/run/app"
          splay    = "0s"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
