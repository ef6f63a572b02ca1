# The image is pulled from a registry that wants a login.
variable "image" {
  type = string
}
variable "user" {
  type = string
}
variable "password" {
  type = string
}
job "docker-pull" {
  group "g" {
    task "web" {
      driver = "docker"
      config {
        image   = var.image
        command = "testapp"
        args    = ["sleep"]
        auth {
          username = var.user
          password = var.password
        }
      }
    }
  }
}
