# nix fmt: runs the formatter of each language. treefmt-nix would need one more
# flake input and as many lines.
{ pkgs, rust, ... }:
pkgs.writeShellApplication {
  name = "fmt";
  runtimeInputs = [
    rust.channel.default
    pkgs.findutils
    pkgs.gnugrep
    pkgs.nixfmt
    pkgs.shfmt
  ];
  text = ''
    # The top level, wherever it is called from.
    cd "''${PRJ_ROOT:?is set by nix fmt}"
    cargo fmt --all
    nix/tests/lint --write
  '';
}
