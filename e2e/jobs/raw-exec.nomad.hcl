# testapp prints a file again on each SIGHUP.
job "raw-exec-task" {
  group "g" {
    task "web" {
      driver = "raw_exec"
      config {
        command = "testapp"
        args    = ["sighup", "/proc/self/comm"]
      }
    }
  }
}
