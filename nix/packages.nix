# What can be built: the programs, their images, and what is told about them.
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
  default = rust.programs.local;
  manifests = import ./manifests.nix { inherit images lib pkgs; };
  sbom = import ./sbom.nix { inherit lib pkgs rust; };
}
