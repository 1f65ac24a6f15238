{
  description = "Ping-Pong with mutual TLS: two services, their images and their cluster";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    crane.url = "github:ipetkov/crane";
    # rustc in the version that Cargo.toml requires, and its std for musl.
    rust-overlay.url = "github:oxalica/rust-overlay";
    rust-overlay.inputs.nixpkgs.follows = "nixpkgs";
    advisory-db.url = "github:rustsec/advisory-db";
    advisory-db.flake = false;
  };

  outputs =
    inputs@{ self, nixpkgs, ... }:
    let
      inherit (nixpkgs) lib;
      linux = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      # Images and clusters are for Linux; the dev shell also runs on macOS.
      anywhere = linux ++ [ "aarch64-darwin" ];

      # The arguments of every file in nix/.
      each =
        systems: file:
        lib.genAttrs systems (
          system:
          let
            pkgs = nixpkgs.legacyPackages.${system};
            rust = import ./nix/rust.nix { inherit inputs lib pkgs; };
            packages = self.packages.${system};
          in
          import file {
            inherit
              inputs
              lib
              packages
              pkgs
              rust
              self
              system
              ;
          }
        );
    in
    {
      # nix build .#ponger-image
      packages = each linux ./nix/packages.nix;

      # nix run .#cluster-up
      apps = each linux ./nix/apps.nix;

      # nix flake check
      checks = each linux ./nix/checks.nix;

      # nix develop
      devShells = each anywhere ./nix/devshell.nix;

      # nix fmt
      formatter = each anywhere ./nix/formatter.nix;
    };
}
