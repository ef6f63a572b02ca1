# A container that sleeps.
variable "name" {
  type = string
}
variable "network" {
  type        = string
  description = "the group's mode; empty is a group without networks"
  default     = ""
}
job "sleep" {
  id   = var.name
  name = var.name
  group "g" {
    dynamic "network" {
      for_each = compact([var.network])
      content {
        mode = network.value
      }
    }
    task "web" {
      driver = "docker"
      config {
        image   = "${meta.image}"
        command = "testapp"
        args    = ["sleep"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
