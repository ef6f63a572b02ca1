# A raw_exec task that asks for a volume_mount, which its driver refuses.
variable "name" {
  type = string
}
job "host-volume" {
  id   = var.name
  name = var.name
  group "g" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    volume "data" {
      type   = "host"
      source = "data"
    }
    task "web" {
      driver = "raw_exec"
      volume_mount {
        volume      = "data"
        destination = "data"
      }
      config {
        command = "testapp"
        args    = ["sleep"]
      }
    }
  }
}
