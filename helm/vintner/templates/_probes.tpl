{{/* When a pod has started, is ready, and lives. Readiness is the same question over REST and gRPC; it is false while the
models of the start load and from SIGTERM on. Nobody must be restarted for either, so liveness asks another one, which
only REST has: grpc.health.v1 knows nothing but readiness. */}}

{{- define "vintner.readinessHandler" -}}
{{- if eq .Values.probes.type "grpc" -}}
grpc:
  port: {{ .Values.server.ports.grpc }}
  service: inference.GRPCInferenceService
{{- else -}}
httpGet:
  path: /v2/health/ready
  port: http
{{- end -}}
{{- end -}}

{{/* Seconds after which a rollout has failed: as long as a pod may take to start, and ten minutes for what comes before,
which are Kubernetes' own default. */}}
{{- define "vintner.progressDeadline" -}}
{{- $startup := default dict .Values.probes.startup -}}
{{- add 600 (mul (default 0 $startup.periodSeconds | int) (default 0 $startup.failureThreshold | int)) -}}
{{- end -}}

{{- define "vintner.probes" -}}
{{- with .Values.probes.startup }}
startupProbe:
  {{- include "vintner.readinessHandler" $ | nindent 2 }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.probes.readiness }}
readinessProbe:
  {{- include "vintner.readinessHandler" $ | nindent 2 }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.probes.liveness }}
livenessProbe:
  httpGet:
    path: /v2/health/live
    port: http
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
