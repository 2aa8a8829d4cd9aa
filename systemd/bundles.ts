/**
 * The programs as bundles of JavaScript, as the packages carry them: no TypeScript and no node_modules on a machine.
 * Called by package.ts. The halves of the agent share no file, and what a program needs late stays a file of its
 * own: loaded at the start, execa alone would cost an idle agent 5 MB.
 */
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { readFile, readdir, writeFile } from 'node:fs/promises'
import { isBuiltin } from 'node:module'
import { join } from 'node:path'
import { type BuildOptions, type Plugin, build } from 'esbuild'

export const CHECKOUT = new URL('..', import.meta.url).pathname

/** What is made together, and the folder in the package's own that it goes to. */
type Bundle = { readonly folder: string; readonly entries: readonly string[] }

/** `agent/` and `agent/runner/` mirror the checkout, since the programs find each other and package.json by place. */
export const AGENT_BUNDLES: readonly Bundle[] = [
  { folder: 'agent', entries: ['agent/main.ts'] },
  { folder: 'agent/runner', entries: ['main', 'collect', 'wrapper', 'hook'].map((name) => `agent/runner/${name}.ts`) },
]
export const COORDINATOR_BUNDLES: readonly Bundle[] = [
  { folder: 'coordinator', entries: ['coordinator/main.ts'] },
  {
    folder: 'cli',
    entries: ['coordinator/cli/smith.ts', 'coordinator/cli/smith-patch.ts', 'coordinator/cli/smith-status.ts'],
  },
]

/** Packages that were written for CommonJS call require, which a module does not have. */
const BANNER = "import{createRequire as smithRequire}from'node:module';const require=smithRequire(import.meta.url);"

/**
 * Node's own modules by require: an import reads all that a module exports at once, also what loads more only when
 * somebody asks for it (fs.promises, crypto.webcrypto, the root certificates of tls), which is 0.8 MB of the agent.
 */
const LAZY_BUILTINS: Plugin = {
  name: 'lazy-builtins',
  setup: (bundling) => {
    bundling.onResolve({ filter: /^[^./]/ }, ({ path, kind }) => {
      if (!isBuiltin(path)) return undefined
      return kind === 'require-call' ? { path, external: true } : { path, namespace: 'builtin' }
    })
    bundling.onLoad({ filter: /^/, namespace: 'builtin' }, ({ path }) => ({
      contents: `module.exports = require(${JSON.stringify(path)})`,
    }))
  },
}

/** Answers the names of the npm packages whose code went in, so that their licences can go with them. */
export async function makeBundles(bundles: readonly Bundle[], outdir: string, nodeArch: string): Promise<string[]> {
  const used = new Set<string>()
  for (const { folder, entries } of bundles) {
    const target = join(outdir, folder)
    const { metafile } = await build({ ...OPTIONS, ...sqliteOf(nodeArch), entryPoints: [...entries], outdir: target })
    for (const name of packagesIn(Object.keys(metafile.inputs))) used.add(name)
    await dropFirstLines(target)
  }
  return [...used].toSorted()
}

/** The npm packages among the files that went into a bundle. */
export function packagesIn(inputs: readonly string[]): string[] {
  return inputs.flatMap((input) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1] ?? [])
}

const OPTIONS = {
  bundle: true,
  platform: 'node',
  target: 'node24',
  format: 'esm',
  splitting: true,
  absWorkingDir: CHECKOUT,
  outExtension: { '.js': '.mjs' },
  chunkNames: '[name]-[hash]',
  assetNames: '[name]',
  // Names stay, for whoever reads a stack trace; without them the agent would be 25 KB smaller.
  minifyWhitespace: true,
  minifySyntax: true,
  legalComments: 'none',
  // ws does without these two.
  external: ['bufferutil', 'utf-8-validate'],
  banner: { js: BANNER },
  plugins: [LAZY_BUILTINS],
  metafile: true,
  logLevel: 'warning',
} as const satisfies BuildOptions

/** The one library with machine code: taken by its name for one architecture, so that no other comes along. */
function sqliteOf(nodeArch: string): Pick<BuildOptions, 'alias' | 'loader'> {
  return { alias: { 'better-sqlite3': `better-sqlite3/linux-${nodeArch}` }, loader: { '.node': 'copy' } }
}

/** In a checkout the programs begin as shell scripts that look for a Node; the package's launchers know theirs. */
async function dropFirstLines(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.endsWith('.mjs')) continue
    const path = join(folder, name)
    const text = await readFile(path, 'utf8')
    if (text.startsWith('#!')) await writeFile(path, text.slice(text.indexOf('\n') + 1))
  }
}

/** The licence texts of npm packages, for /usr/share/doc. */
export function licencesOf(packages: readonly string[]): string {
  return packages
    .map((name) => {
      const folder = join(CHECKOUT, 'node_modules', name)
      if (!existsSync(folder)) throw new Error(`${name} is in a bundle but not in node_modules`)
      const about = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
        version: string
        license?: string
      }
      const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one))
      const text = file === undefined ? '' : readFileSync(join(folder, file), 'utf8').trim()
      return `${'-'.repeat(80)}\n${name} ${about.version} (${about.license ?? 'see below'})\n\n${text}\n`
    })
    .join('\n')
}
