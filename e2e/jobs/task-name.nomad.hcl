# A task by a name of which each is a directory.
variable "name" {
  type = string
}
variable "driver" {
  type = string
}
variable "task" {
  type = string
}
job "task-name" {
  id   = var.name
  name = var.name
  group "g" {
    dynamic "task" {
      for_each = [var.task]
      labels   = [task.value]
      content {
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
          command = "testapp"
          args    = ["sleep"]
          role    = "tasknames"
          secret "app" {
            path  = "secret/tasknames"
            files = true
          }
        }
      }
    }
  }
}
