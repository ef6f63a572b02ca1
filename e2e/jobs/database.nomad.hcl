# testapp logs in to MariaDB over and over.
variable "user" {
  type = string
}
variable "password" {
  type = string
}
job "database" {
  group "g" {
    task "web" {
      driver = "docker"
      env {
        DB_ADDR     = "${meta.db_addr}"
        DB_USER     = var.user
        DB_PASSWORD = var.password
      }
      config {
        image        = "${meta.image}"
        network_mode = "host"
        command      = "testapp"
        args         = ["dblogin"]
      }
    }
  }
}
