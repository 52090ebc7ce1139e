{{/* The groups of files/rules.yaml for one release: each expression sees this release's series only, by the job that its
monitor gives them, and each alert has the release's name. So two releases never record the same series, nor send the
same alert. Knows nothing of what the rules say: all else, templates of Prometheus among it, comes through as it is. */}}

{{- define "vintner.ruleGroups" -}}
{{- $groups := list -}}
{{- range (.Files.Get "files/rules.yaml" | fromYaml).groups -}}
{{- $rules := list -}}
{{- range .rules -}}
{{- $rule := merge (dict "expr" (include "vintner.scopedExpression" (list $ .expr))) . -}}
{{- if .alert -}}
{{- $_ := set $rule "labels" (merge (dict "release" $.Release.Name) (default dict .labels)) -}}
{{- end -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- $groups = append $groups (merge (dict "rules" $rules) .) -}}
{{- end -}}
{{- toYaml (concat $groups (default list .Values.metrics.prometheusRule.additionalGroups)) -}}
{{- end -}}

{{/* Of (list root expression). What the rules take of others' series they join with the server's. */}}
{{- define "vintner.scopedExpression" -}}
{{- $selector := include "vintner.jobSelector" (first .) -}}
{{- $text := regexReplaceAll `\b(vintner[_:][a-z0-9_:]+)\b` (last .) (printf "${1}{%s}" $selector) -}}
{{- regexReplaceAll `"\}\{` $text `",` -}}
{{- end -}}

{{/* The operator's monitors name the job after the Service, or after themselves. */}}
{{- define "vintner.jobSelector" -}}
{{- $name := include "vintner.fullname" . -}}
{{- $namespace := .Release.Namespace -}}
{{- with .Values.metrics -}}
{{- if not (or .serviceMonitor.enabled .podMonitor.enabled) -}}
{{- fail "metrics.prometheusRule.enabled: expected metrics.serviceMonitor.enabled or metrics.podMonitor.enabled, for the rules tell the release's series by the job that its monitor gives them. With another scrape, load files/rules.yaml of the chart by yourself" -}}
{{- end -}}
{{- $job := ternary $name (printf "%s/%s" $namespace $name) .serviceMonitor.enabled -}}
{{- printf "namespace=%q,job=%q" $namespace $job -}}
{{- end -}}
{{- end -}}
