{{/* The server's configuration file. Knows nothing of pods. What the chart itself has to know, such as ports, stands
in one place of the values, and is refused elsewhere: in server.config by values.schema.json, which is made of this
list, in server.extraArgs and env here. */}}

{{/* What the chart sets: option or alias -> the value that says it. */}}
{{- define "vintner.setByChart" -}}
config: server.config
model_repository: modelRepository
model_dir: modelRepository
model_path: modelRepository
model_name: modelRepository.modelName
http_port: server.ports.http
rest_port: server.ports.http
grpc_port: server.ports.grpc
metrics_port: server.ports.metrics
log_format: server.logFormat
log_level: server.logLevel
cache_dir: cache
drain_seconds: server.drainSeconds
exit_timeout_seconds: server.exitTimeoutSeconds
exit_timeout_secs: server.exitTimeoutSeconds
{{- end -}}

{{- define "vintner.checkOptions" -}}
{{- $values := fromYaml (include "vintner.setByChart" .) -}}
{{- range .Values.server.extraArgs -}}
{{- $flag := first (splitList "=" (toString .)) -}}
{{- with and (hasPrefix "--" $flag) (get $values (trimPrefix "--" $flag | replace "-" "_")) -}}
{{- fail (printf "server.extraArgs: the chart sets %s; set %s instead" $flag .) -}}
{{- end -}}
{{- end -}}
{{- range $variable := .Values.env -}}
{{- with and (hasPrefix "VINTNER_" .name) (get $values (trimPrefix "VINTNER_" .name | lower)) -}}
{{- fail (printf "env: the chart sets %s; set %s instead" $variable.name .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "vintner.repositoryMount" -}}
{{- $repository := .Values.modelRepository -}}
{{- ternary "/opt/vintner/model_repository" $repository.mountPath (eq $repository.type "bundled") -}}
{{- end -}}

{{/* The directory in the volume is part of the path and not of the mount, so that links to it may be swapped. */}}
{{- define "vintner.repositoryPath" -}}
{{- $directory := default "" .Values.modelRepository.subPath | trimAll "/" -}}
{{- $mount := include "vintner.repositoryMount" . -}}
{{- ternary (printf "%s/%s" (trimSuffix "/" $mount) $directory) $mount (ne $directory "") -}}
{{- end -}}

{{- define "vintner.options" -}}
{{- include "vintner.checkOptions" . -}}
{{- $server := .Values.server -}}
{{- $options := dict
      "model_repository" (include "vintner.repositoryPath" .)
      "http_port" $server.ports.http
      "grpc_port" $server.ports.grpc
      "metrics_port" $server.ports.metrics
      "log_format" $server.logFormat
      "log_level" $server.logLevel
      "drain_seconds" $server.drainSeconds
      "exit_timeout_seconds" $server.exitTimeoutSeconds -}}
{{- with .Values.modelRepository.modelName -}}
{{- $_ := set $options "model_name" . -}}
{{- end -}}
{{- if ne .Values.cache.type "none" -}}
{{- $_ := set $options "cache_dir" .Values.cache.mountPath -}}
{{- end -}}
{{- toYaml (merge $options (default dict $server.config)) -}}
{{- end -}}

{{/* "true" where the image's examples are loaded at the start, under their own names: nothing says anything else. */}}
{{- define "vintner.servesDigits" -}}
{{- $repository := .Values.modelRepository -}}
{{- $config := default dict .Values.server.config -}}
{{- $other := or (eq (default "poll" $config.model_control) "explicit") $config.config_path -}}
{{- $elsewhere := list .Values.server.extraArgs .Values.env | toJson | regexMatch "(?i)model[-_]control|config[-_]path" -}}
{{- if and (eq $repository.type "bundled") (not $repository.subPath) (not $other) (not $elsewhere) }}true{{ end -}}
{{- end -}}
