job "demo" {
  # Never on a node without the plugin, where the task would start without its secrets.
  constraint {
    attribute = "${attr.driver.docker.secrets.nomad}"
    operator  = "is_set"
  }
  group "demo" {
    task "web" {
      driver = "docker"

      # Nomad writes the task's identity to where only the plugin looks.
      identity {
        file     = true
        filepath = "private/nomad.jwt"
      }

      config {
        image   = "${meta.image}"
        command = "testapp" # prints what it has
        args    = ["env", "GREETING"]

        secret "app" {
          provider = "nomad"
          path     = "nomad/jobs/demo"
          env      = { GREETING = "greeting" }
          splay    = "0s"
        }
      }
    }
  }
}
