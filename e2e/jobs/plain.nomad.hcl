# A task without secrets, whose pid file tells the process.
variable "name" {
  type = string
}
variable "driver" {
  type = string
}
job "plain" {
  id   = var.name
  name = var.name
  group "g" {
    task "web" {
      driver = var.driver
      config {
        image   = var.driver == "docker" ? "${meta.image}" : null
        command = "testapp"
        args    = ["-pidfile", var.driver == "docker" ? "/local/pid" : "pid", "sleep"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
