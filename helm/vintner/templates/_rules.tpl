{{/* The groups of files/rules.yaml for one release: each expression sees this release's series only, and what comes of
it carries the release's name. Knows nothing of what the rules say; their texts, templates of Prometheus among them,
come through as they are. So two releases never write the same series, nor send the same alert. */}}

{{- define "vintner.ruleGroups" -}}
{{- $groups := list -}}
{{- $labels := dict "namespace" .Release.Namespace "release" .Release.Name -}}
{{- range (.Files.Get "files/rules.yaml" | fromYaml).groups -}}
{{- $rules := list -}}
{{- range .rules -}}
{{- $expression := include "vintner.scopedExpression" (list $ .expr) -}}
{{- $rules = append $rules (merge (dict "expr" $expression "labels" (merge (dict) $labels (default dict .labels))) .) -}}
{{- end -}}
{{- $groups = append $groups (merge (dict "rules" $rules) .) -}}
{{- end -}}
{{- toYaml (concat $groups .Values.metrics.prometheusRule.additionalGroups) -}}
{{- end -}}

{{/* Of (list root expression). Scraped series are told by their pod, recorded ones by the labels from above. */}}
{{- define "vintner.scopedExpression" -}}
{{- $root := first . -}}
{{- $recorded := printf "namespace=%q,release=%q" $root.Release.Namespace $root.Release.Name -}}
{{- $text := regexReplaceAll `\b(vintner_[a-z0-9_]+|up)\b[ \n]*` (last .) (printf "${1}{%s}" (include "vintner.podSelector" $root)) -}}
{{- $text = regexReplaceAll `\b(vintner:[a-z0-9_:]+)\b[ \n]*` $text (printf "${1}{%s}" $recorded) -}}
{{- regexReplaceAll `"\}\{` $text `",` -}}
{{- end -}}
