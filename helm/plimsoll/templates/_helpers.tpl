{{/*
Names, labels, and what follows from the configuration. Every template here takes the chart's own
scope: `.` inside this chart, `.Subcharts.plimsoll` in a chart that depends on it.
*/}}

{{- define "plimsoll.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "plimsoll.selectorLabels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "plimsoll.labels" -}}
{{ include "plimsoll.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "plimsoll.serviceAccountName" -}}
{{- $account := .Values.standalone.serviceAccount -}}
{{- if $account.create -}}
{{- $account.name | default (include "plimsoll.fullname" .) -}}
{{- else -}}
{{- $account.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "plimsoll.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository: name the image that you built or mirrored, for example registry.example.com/plimsoll" $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/*
The configuration as it is mounted: `.Values.config`, with what a pod needs where it says nothing.
The metrics port must answer on the pod's address, because the kubelet and Prometheus come from
outside. The hop stays on loopback in a sidecar; a standalone hop is useless there.
*/}}
{{- define "plimsoll.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $metrics := merge (deepCopy ($config.metrics | default dict)) (dict "bind" "0.0.0.0:9429") -}}
{{- if regexMatch "^(127\\.|\\[::1\\])" $metrics.bind -}}
{{- fail (printf "config.metrics.bind: %s is a loopback address, where neither probes nor Prometheus reach it; use 0.0.0.0 or [::]" $metrics.bind) -}}
{{- end -}}
{{- $_ := set $config "metrics" $metrics -}}
{{- if .Values.standalone.enabled -}}
{{- if not (hasKey $config "listeners") -}}
{{- $route := dict "name" "anthropic" "upstream" "https://api.anthropic.com" -}}
{{- $_ := set $config "listeners" (list (dict "bind" "0.0.0.0:8429" "routes" (list $route))) -}}
{{- end -}}
{{- range $i, $listener := $config.listeners -}}
{{- if regexMatch "^(127\\.|\\[::1\\])" $listener.bind -}}
{{- fail (printf "config.listeners[%d].bind: %s is a loopback address, where no other pod reaches a standalone hop; use 0.0.0.0 or [::]" $i $listener.bind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/*
The hop's listeners, as JSON: {"all": [{name, port, scheme, url}]}. The first is the main one; `url` is what
a workload in the same pod calls.
*/}}
{{- define "plimsoll.listeners" -}}
{{- $config := fromYaml (include "plimsoll.config" .) -}}
{{- $listeners := $config.listeners -}}
{{- if not (hasKey $config "listeners") -}}
{{- $listeners = list (dict "bind" "127.0.0.1:8429") -}}
{{- end -}}
{{- $all := list -}}
{{- range $i, $listener := $listeners -}}
{{- $name := ternary "plimsoll-hop" (printf "plimsoll-hop-%d" (add $i 1)) (eq $i 0) -}}
{{- $port := regexFind "[0-9]+$" $listener.bind -}}
{{- $host := ternary "[::1]" "127.0.0.1" (hasPrefix "[" $listener.bind) -}}
{{- $scheme := ternary "https" "http" (hasKey $listener "tls") -}}
{{- $all = append $all (dict "name" $name "port" $port "scheme" $scheme "url" (printf "%s://%s:%s" $scheme $host $port)) -}}
{{- end -}}
{{- dict "all" $all | toJson -}}
{{- end -}}

{{- define "plimsoll.metricsPort" -}}
{{- (fromYaml (include "plimsoll.config" .)).metrics.bind | regexFind "[0-9]+$" -}}
{{- end -}}

{{/*
Port names are at most 15 characters long. They are the same in every form, so that one PodMonitor
finds sidecars and standalone hops alike.
*/}}
{{- define "plimsoll.metricsPortName" -}}plimsoll-metric{{- end -}}

{{/* The label that carries the owner in alerts: one setting for the sidecar and for the rules. */}}
{{- define "plimsoll.ownerLabel" -}}
{{- dig "alerts" "owner_label" "owner" .Values.config -}}
{{- end -}}
