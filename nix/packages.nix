# The programs, their images, the rendered manifests and the bill of materials.
{
  lib,
  pkgs,
  rust,
  ...
}:
let
  images = import ./images.nix { inherit lib pkgs rust; };
in
rust.programs
// lib.mapAttrs' (name: lib.nameValuePair "${name}-image") images
// {
  default = rust.programs.demo;
  manifests = import ./manifests.nix { inherit images lib pkgs; };
  sbom = import ./sbom.nix { inherit lib pkgs rust; };
}
