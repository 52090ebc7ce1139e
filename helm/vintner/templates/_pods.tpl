{{/* What tells this release's pods in the series that Prometheus scrapes. Knows nothing of the series.
Rests on the labels namespace and pod, which the operator's monitors set. Every pod of this release matches; and, unless
its name is very long, none of a release whose name begins like this one's, for dashes are counted. */}}

{{/* A Deployment's pods end with a hash and five characters. Kubernetes cuts all before those five at 58 characters,
so of a long name less than the whole may be left, and its dashes cannot be counted. */}}
{{- define "vintner.podPattern" -}}
{{- $name := include "vintner.fullname" . -}}
{{- if eq .Values.kind "StatefulSet" -}}
{{- printf "%s-[0-9]+" $name -}}
{{- else if le (len $name) 46 -}}
{{- printf "%s-[a-z0-9]+-[a-z0-9]{5}" $name -}}
{{- else -}}
{{- printf "%s-[a-z0-9-]+" $name -}}
{{- end -}}
{{- end -}}

{{- define "vintner.podSelector" -}}
{{- printf "namespace=%q,pod=~%q" .Release.Namespace (include "vintner.podPattern" .) -}}
{{- end -}}

{{/* Object that autoscalers scale. */}}
{{- define "vintner.scaleTarget" -}}
apiVersion: apps/v1
kind: {{ .Values.kind }}
name: {{ include "vintner.fullname" . | quote }}
{{- end -}}
