# The rendered overlays, with the tags of the images that were built with them.
{
  images,
  lib,
  pkgs,
}:
pkgs.runCommand "manifests" { nativeBuildInputs = [ pkgs.kustomize ]; } ''
  cp -r ${../k8s} k8s
  chmod -R +w k8s
  mkdir $out
  for overlay in k8s/overlays/*/; do
    (
      cd "$overlay"
      kustomize edit set image ${
        lib.concatMapAttrsStringSep " " (name: image: "${name}=${name}:${image.imageTag}") images
      }
    )
    kustomize build "$overlay" >"$out/$(basename "$overlay").yaml"
  done
''
