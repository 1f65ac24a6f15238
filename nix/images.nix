# OCI images from scratch: one static file, a number for its user, nothing else.
{
  lib,
  pkgs,
  rust,
}:
let
  inherit (rust.manifest.workspace) package;

  # Who is told no trust bundle trusts the world's: pinger may be pointed at a
  # public name. The file alone, without what else its package holds.
  roots = pkgs.runCommand "ca-bundle.crt" { } ''
    cp ${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt $out
  '';

  image =
    name: env:
    let
      program = rust.programs.${name};
    in
    # Without a tag the image takes one from its own content: a new tag is a
    # new image, and an unchanged service keeps its old one.
    pkgs.dockerTools.buildLayeredImage {
      inherit name;
      # Not the time of the build: the same source gives the same bytes.
      created = "1970-01-01T00:00:01Z";
      config = {
        Entrypoint = [ (lib.getExe program) ];
        Env = env;
        # A number, since runAsNonRoot cannot look up a name.
        User = "65532:65532";
        Labels = lib.mapAttrs' (key: lib.nameValuePair "org.opencontainers.image.${key}") {
          title = name;
          inherit (program.meta) description;
          # The hash of the sources, not git's commit: a commit that changes
          # no source changes no image. A release writes the commit on the
          # index that it publishes.
          revision = lib.substring 0 32 (baseNameOf (builtins.unsafeDiscardStringContext program.src));
          licenses = package.license;
          source = package.repository;
          inherit (package) version;
        };
      };
    };
in
lib.mapAttrs image {
  pinger = [ "SSL_CERT_FILE=${roots}" ];
  ponger = [ ];
}
