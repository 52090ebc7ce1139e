{{/* What both monitors of the Prometheus operator share. Knows nothing of how they find the pods. */}}

{{/* A duration of Prometheus, such as 1m30s, in milliseconds. */}}
{{- define "vintner.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 "w" 604800000 "y" 31536000000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|[smhdwy])" . -1 -}}
{{- $sum = add $sum (mul (regexFind "^[0-9]+" .) (get $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* What is scraped, of the values of one of both. */}}
{{- define "vintner.scrape" -}}
{{- $timeout := include "vintner.milliseconds" .scrapeTimeout | int64 -}}
{{- if ge $timeout (include "vintner.milliseconds" .interval | int64) -}}
{{- fail (printf "scrapeTimeout: expected less than interval, %s, got %s: a scrape has to end before the next begins" .interval .scrapeTimeout) -}}
{{- end -}}
port: metrics
path: /metrics
interval: {{ .interval }}
scrapeTimeout: {{ .scrapeTimeout }}
# model and version stay what the server says, also where the operator is told to add labels of these names.
honorLabels: true
{{- end -}}
