{{/*
For the charts of workloads that Plimsoll sits beside. README.md shows all of them in use.

  plimsoll.initContainers   entry of `initContainers`: the native sidecar, empty in the other form
  plimsoll.containers       entry of `containers`: the plain sidecar, empty in the native form
  plimsoll.sidecar          the container alone, in the form that is selected
  plimsoll.volumes          entries of `volumes`
  plimsoll.annotations      pod annotations: settings that are read only at the start roll the pods
  plimsoll.workloadEnv      environment of the workload: sends its traffic through the hop

All of them are empty while `sidecar.enabled` is false, so one value takes Plimsoll out of the way.
*/}}

{{/* "true" or "": Kubernetes runs native sidecars by default from 1.29 on. */}}
{{- define "plimsoll.native" -}}
{{- $native := .Values.sidecar.native | toString -}}
{{- if eq $native "auto" -}}
{{- if semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version -}}true{{- end -}}
{{- else if eq $native "true" -}}true{{- end -}}
{{- end -}}

{{- define "plimsoll.sidecar" -}}
{{- if .Values.sidecar.enabled -}}
{{- $form := ternary "native" "plain" (eq (include "plimsoll.native" .) "true") -}}
{{- include "plimsoll.container" (dict "root" . "form" $form) -}}
{{- end -}}
{{- end -}}

{{- define "plimsoll.initContainers" -}}
{{- if include "plimsoll.native" . -}}{{- include "plimsoll.sidecar" . -}}{{- end -}}
{{- end -}}

{{- define "plimsoll.containers" -}}
{{- if not (include "plimsoll.native" .) -}}{{- include "plimsoll.sidecar" . -}}{{- end -}}
{{- end -}}

{{- define "plimsoll.volumes" -}}
{{- if .Values.sidecar.enabled -}}{{- include "plimsoll.podVolumes" . -}}{{- end -}}
{{- end -}}

{{- define "plimsoll.annotations" -}}
{{- if .Values.sidecar.enabled -}}{{- include "plimsoll.checksum" . -}}{{- end -}}
{{- end -}}

{{/* Empty without listeners too: then the workload's calls are told of by a source, and pass no hop. */}}
{{- define "plimsoll.workloadEnv" -}}
{{- $first := first (fromJson (include "plimsoll.hopPorts" .)).all -}}
{{- if and .Values.sidecar.enabled (eq $first.kind "hop") -}}
- name: ANTHROPIC_BASE_URL
  value: {{ $first.url }}
{{- end -}}
{{- end -}}

{{/*
Routes, owners, alerts and the like are reloaded while traffic flows, so they must not roll the pods:
that would end the calls in flight. What is read only at the start must.
*/}}
{{- define "plimsoll.checksum" -}}
{{- include "plimsoll.checksumOf" (fromYaml (include "plimsoll.config" .)) -}}
{{- end -}}

{{- define "plimsoll.checksumOf" -}}
{{- $start := pick . "otlp" "limits" -}}
{{- with omit (.sources | default dict) "routes" -}}
{{- $_ := set $start "sources" . -}}
{{- end -}}
checksum/plimsoll-start: {{ $start | toJson | sha256sum | quote }}
{{- end -}}

{{/*
The ConfigMap is mounted as a folder, never by subPath: only then does a changed ConfigMap reach a
running pod.
*/}}
{{- define "plimsoll.podVolumes" -}}
- name: plimsoll-config
  configMap:
    name: {{ include "plimsoll.fullname" . }}
# Without a size limit: a full one would evict the pod, and the workload with it.
- name: plimsoll-state
  emptyDir: {}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
The container, in one of four forms: "native" and "plain" beside a workload, "standalone" on its own, "poller"
without a hop.

No form beside a workload has a readiness probe: it would take the workload out of its Services when
only measuring is disturbed. The native form has a startup probe, so that the workload starts once the
hop listens; a plain container cannot hold others back.
*/}}
{{- define "plimsoll.container" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $name := $values.sidecar.name -}}
{{- $metrics := include "plimsoll.metricsPortName" $root -}}
{{- $polls := eq .form "poller" -}}
{{- $extraEnv := $values.extraEnv -}}
{{- $mounts := $values.extraVolumeMounts -}}
{{- if $polls -}}
{{- $extraEnv = concat $extraEnv $values.poller.extraEnv -}}
{{- $mounts = concat $mounts $values.poller.extraVolumeMounts -}}
{{- end -}}
{{- $reserved := list "K8S_POD_NAME" "K8S_NAMESPACE_NAME" "K8S_POD_UID" "K8S_NODE_NAME" "OTEL_RESOURCE_ATTRIBUTES" "PLIMSOLL_LOG" "PLIMSOLL_LOG_FORMAT" -}}
{{- $names := dict -}}
{{- range $i, $env := $extraEnv -}}
{{- $path := ternary (printf "extraEnv[%d].name" $i) (printf "poller.extraEnv[%d].name" (sub $i (len $values.extraEnv))) (lt $i (len $values.extraEnv)) -}}
{{- if has $env.name $reserved -}}
{{- fail (printf "%s: %s is set by the chart already; use resourceAttributes or log" $path $env.name) -}}
{{- end -}}
{{- if hasKey $names $env.name -}}
{{- fail (printf "%s: %s is set twice, which server-side apply refuses; extraEnv is for the poller too" $path $env.name) -}}
{{- end -}}
{{- $_ := set $names $env.name true -}}
{{- end -}}
- name: {{ $name }}
  image: {{ include "plimsoll.image" $root | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  {{- if eq .form "native" }}
  restartPolicy: Always
  {{- end }}
  args: [run, --config, /etc/plimsoll/plimsoll.yaml]
  ports:
    {{- range (fromJson (include (ternary "plimsoll.pollerPorts" "plimsoll.hopPorts" $polls) $root)).all }}
    - name: {{ .name }}
      containerPort: {{ .port }}
    {{- end }}
  env:
    # First what the attributes below refer to: Kubernetes expands only what stands before.
    - name: K8S_POD_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
    - name: K8S_NAMESPACE_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.namespace
    - name: K8S_POD_UID
      valueFrom:
        fieldRef:
          fieldPath: metadata.uid
    - name: K8S_NODE_NAME
      valueFrom:
        fieldRef:
          fieldPath: spec.nodeName
    - name: OTEL_RESOURCE_ATTRIBUTES
      value: >-
        k8s.pod.name=$(K8S_POD_NAME),k8s.namespace.name=$(K8S_NAMESPACE_NAME),k8s.pod.uid=$(K8S_POD_UID),k8s.node.name=$(K8S_NODE_NAME),k8s.container.name={{ $name }},service.instance.id=$(K8S_NAMESPACE_NAME).$(K8S_POD_NAME).{{ $name }}
        {{- range $key, $value := $values.resourceAttributes }},{{ $key }}={{ $value }}{{ end }}
    - name: PLIMSOLL_LOG
      value: {{ $values.log.level | quote }}
    - name: PLIMSOLL_LOG_FORMAT
      value: {{ $values.log.format }}
    {{- with $extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumeMounts:
    - name: plimsoll-config
      mountPath: /etc/plimsoll
      readOnly: true
    - name: plimsoll-state
      mountPath: {{ include "plimsoll.stateDir" $root }}
    {{- with $mounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if eq .form "native" }}
  startupProbe:
    httpGet:
      path: /-/healthy
      port: {{ $metrics }}
    {{- toYaml $values.startupProbe | nindent 4 }}
  {{- end }}
  livenessProbe:
    httpGet:
      path: /-/healthy
      port: {{ $metrics }}
    {{- toYaml $values.livenessProbe | nindent 4 }}
  {{- if or $polls (eq .form "standalone") }}
  readinessProbe:
    httpGet:
      path: /-/ready
      port: {{ $metrics }}
    {{- toYaml (ternary $values.poller $values.standalone $polls).readinessProbe | nindent 4 }}
  {{- end }}
  {{- if eq .form "standalone" }}
  {{- $sleep := int $values.standalone.preStopSleepSeconds }}
  {{- if and $sleep (semverCompare ">=1.30.0-0" $root.Capabilities.KubeVersion.Version) }}
  lifecycle:
    preStop:
      sleep:
        seconds: {{ $sleep }}
  {{- end }}
  {{- end }}
  {{- with ternary $values.poller.resources $values.resources $polls }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml $values.securityContext | nindent 4 }}
  # With a configuration that cannot be used, the pod's status then says which line is wrong.
  terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}
