# No secrets, and something of everything that the drivers offer.
variable "name" {
  type = string
}
job "options" {
  id   = var.name
  name = var.name
  group "g" {
    network {
      mode = "bridge"
      port "http" {
        to = 8080
      }
    }
    volume "data" {
      type   = "host"
      source = "data"
    }
    task "docker" {
      driver = "docker"
      user   = "app"
      env {
        COLOUR = "green"
      }
      volume_mount {
        volume      = "data"
        destination = "/data"
      }
      config {
        image           = "${meta.image}"
        entrypoint      = ["/bin/testapp"]
        command         = "env"
        args            = ["COLOUR"]
        work_dir        = "/local"
        init            = true
        readonly_rootfs = true
        cap_drop        = ["net_raw"]
        volumes         = ["local/v:/v"]
        ulimit {
          nofile = "4242"
        }
        sysctl = {
          "net.core.somaxconn" = "1234"
        }
        labels {
          team = "a"
        }
        mount {
          type   = "tmpfs"
          target = "/scratch"
          tmpfs_options {
            size = 65536
          }
        }
        mount {
          type     = "bind"
          source   = "local"
          target   = "/bound"
          readonly = true
        }
        logging {
          type = "json-file"
          config {
            max-size = "1m"
          }
        }
      }
      resources {
        cpu        = 30
        memory     = 40
        memory_max = 50
      }
    }
    task "raw_exec" {
      driver = "raw_exec"
      config {
        command = "testapp"
        args    = ["-pidfile", "pid", "sleep"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
