# One static secret, of an engine by the name of the job.
variable "name" {
  type = string
}
job "rotate-gone" {
  id   = var.name
  name = var.name
  group "g" {
    task "app" {
      driver = "raw_exec"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command = "testapp"
        args    = ["sighup", "secrets/kv/colour"]
        role    = var.name
        secret "kv" {
          path  = "${var.name}/app"
          files = true
          splay = "0s"
        }
      }
    }
  }
}
