# What a job has that declares no secret. It shows the beginning of its VAULT_TOKEN.
variable "name" {
  type = string
}
variable "role" {
  type        = string
  description = "of its vault block; null: none"
  default     = null
}
variable "from_policies" {
  type    = string
  default = null
}
job "policies-none" {
  id   = var.name
  name = var.name
  group "g" {
    task "web" {
      driver = "raw_exec"
      dynamic "vault" {
        for_each = var.role == null ? [] : [var.role]
        content {
          role = vault.value
        }
      }
      config {
        command       = "/bin/sh"
        args          = ["-c", "echo token-$VAULT_TOKEN | cut -c1-9; exec sleep 1000"]
        from_policies = var.from_policies
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}
