{{/* What values.schema.json cannot say: values that contradict one another. Each message says what to set. */}}

{{- define "vintner.checks" -}}
{{- include "vintner.checkName" . -}}
{{- include "vintner.checkPorts" . -}}
{{- include "vintner.checkVersion" . -}}
{{- include "vintner.checkVolumes" . -}}
{{- include "vintner.checkGracePeriod" . -}}
{{- end -}}

{{/* Helm lets a release be called 2024 or a.b; Kubernetes refuses a Service of that name. */}}
{{- define "vintner.checkName" -}}
{{- $name := include "vintner.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the release's name, %s: the objects would be called %s, and the name of a Service begins with a letter and has no dot; expected another name, or fullnameOverride" .Release.Name $name) -}}
{{- end -}}
{{- end -}}

{{- define "vintner.checkPorts" -}}
{{- range $name, $ports := dict "server.ports" .Values.server.ports "service.ports" .Values.service.ports -}}
{{- $seen := list -}}
{{- range $port := values $ports -}}
{{- /* As texts, for a number from --set is of another type than one from a file. */ -}}
{{- $seen = append $seen (toString $port) -}}
{{- end -}}
{{- if lt (len (uniq $seen)) (len $seen) -}}
{{- fail (printf "%s: expected a port of its own for each of http, grpc and metrics, got %s" $name (toJson $ports)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "vintner.checkVersion" -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- if and (eq .Values.modelRepository.type "image") (semverCompare "<1.31.0-0" $version) -}}
{{- fail (printf "modelRepository.type: image is a kind of volume that came with Kubernetes 1.31, this is %s; expected another one, such as copy" $version) -}}
{{- end -}}
{{- end -}}

{{/* "true" where a claim of the chart's own is for one node only, and the pods of a Deployment share it. */}}
{{- define "vintner.oneNode" -}}
{{- $repository := .Values.modelRepository -}}
{{- if and (eq .Values.kind "Deployment") (eq $repository.type "newClaim") -}}
{{- $modes := $repository.newClaim.accessModes -}}
{{- if not (or (has "ReadWriteMany" $modes) (has "ReadOnlyMany" $modes)) }}true{{ end -}}
{{- end -}}
{{- end -}}

{{/* The largest number of pods that the values allow. */}}
{{- define "vintner.mostReplicas" -}}
{{- if .Values.keda.enabled -}}
{{- .Values.keda.maxReplicas -}}
{{- else -}}
{{- ternary .Values.autoscaling.maxReplicas .Values.replicas .Values.autoscaling.enabled -}}
{{- end -}}
{{- end -}}

{{- define "vintner.checkVolumes" -}}
{{- if and (include "vintner.oneNode" .) (gt (int (include "vintner.mostReplicas" .)) 1) -}}
{{- fail (printf "modelRepository.newClaim.accessModes: up to %s pods share this claim, and %s is for one node; expected ReadWriteMany or ReadOnlyMany among them, or kind StatefulSet, with a claim for each pod" (include "vintner.mostReplicas" .) (join ", " .Values.modelRepository.newClaim.accessModes)) -}}
{{- end -}}
{{- end -}}

{{/* Whole seconds that a pod may need between SIGTERM and its end. */}}
{{- define "vintner.secondsToEnd" -}}
{{- add (ceil .Values.server.drainSeconds | int) (ceil .Values.server.exitTimeoutSeconds | int) -}}
{{- end -}}

{{- define "vintner.checkGracePeriod" -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- $needed := int (include "vintner.secondsToEnd" .) -}}
{{- if not (kindIs "invalid" $given) -}}
{{- if le (int $given) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds: expected more than server.drainSeconds and server.exitTimeoutSeconds, %d together, got %d: the pod would be killed while it serves" $needed (int $given)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "vintner.gracePeriod" -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{- add (include "vintner.secondsToEnd" .) 10 -}}
{{- else -}}
{{- int $given -}}
{{- end -}}
{{- end -}}
