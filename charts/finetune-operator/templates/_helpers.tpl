{{/* Name of everything in the release. */}}
{{- define "finetune-operator.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 32 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "finetune-operator.labels" -}}
{{ include "finetune-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* name, namespace and labels of an object of the release. */}}
{{- define "finetune-operator.metadata" -}}
name: {{ include "finetune-operator.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "finetune-operator.labels" . | nindent 2 }}
{{- end -}}

{{/* Labels of the pods that train; they are those of finetune_api.names, which a test compares. */}}
{{- define "finetune-operator.trainerSelector" -}}
matchLabels:
  app.kubernetes.io/managed-by: finetune-operator
matchExpressions:
  - {key: finetune.dev/job-uid, operator: Exists}
{{- end -}}

{{- define "finetune-operator.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "finetune-operator.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* An image's reference. Takes {root, image}. */}}
{{- define "finetune-operator.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The progress endpoint's host, which is also the name in its certificate. */}}
{{- define "finetune-operator.progressHost" -}}
{{- printf "%s.%s.svc" (include "finetune-operator.name" .) .Release.Namespace -}}
{{- end -}}

{{- define "finetune-operator.tlsSecret" -}}
{{- if eq .Values.tls.source "secret" -}}
{{- required "tls.secretName: needed when tls.source is secret; name a Secret with tls.crt, tls.key and ca.crt" .Values.tls.secretName -}}
{{- else -}}
{{- printf "%s-tls" (include "finetune-operator.name" .) -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that get a policy for trainers, as {names}. */}}
{{- define "finetune-operator.trainerNamespaces" -}}
{{- dict "names" (.Values.networkPolicy.trainers.namespaces | default .Values.watchNamespaces) | toJson -}}
{{- end -}}
