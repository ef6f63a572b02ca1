# The old way of a volume driver: every volume of the task is one of the driver's. The node runs
# `nomad-driver-secrets volume-driver`, with its own credential, and allows secret/app-1; the job needs none.
# The agent's docker driver needs volumes { enabled = true }.
job "volume-driver" {
  group "app" {
    task "app" {
      driver = "docker"

      config {
        image         = "secrets-demo/busybox:1"
        command       = "sh"
        args          = ["-c", "echo user: $(cat /app-1/username); trap exit INT TERM; while true; do sleep 1; done"]
        volume_driver = "secrets"
        volumes       = ["secret/app-1/:/app-1"]
      }
    }
  }
}
