# A task of Nomad's own driver on an engine that is restarted. The meta is for the sweep after a run that was
# killed: the engine is not there to be asked for its containers.
variable "engine" {
  type = string
}
job "engine-plain" {
  group "g" {
    meta {
      engine = var.engine
    }
    restart {
      attempts = 10
      interval = "10m"
      delay    = "1s"
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
