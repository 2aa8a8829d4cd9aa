/**
 * How a health report reads one thing: a program's output, the end of a file, a folder's files. Each is bounded in
 * bytes and time and says itself what is missing. Nothing here waits for a lock, follows a link or blocks on a FIFO.
 */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { codeOf, type Disk, listNames } from '../../disk/disk.ts'

/** What one file of the report is put together from. */
export type Source =
  | {
      readonly kind: 'command'
      readonly argv: readonly string[]
      readonly only?: RegExp
      readonly timeMs?: number
      /** Which part of a long output stays; the start, and the program is ended there, unless it is said. */
      readonly keeps?: 'end'
    }
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'folder'; readonly path: string; readonly named: RegExp }
  | { readonly kind: 'text'; readonly title: string; readonly make: () => string | Promise<string> }

export type SourcePorts = {
  readonly disk: Disk
  readonly environment: Readonly<Record<string, string>>
  /** Milliseconds that are left for the whole report. */
  readonly leftMs: () => number
}

const COMMAND_MS_MAX = 10_000
const FOLDER_FILES_MAX = 60

/** The text of a source below its title, of at most about `bytesMax`; a problem is part of the text. */
export async function readSource(ports: SourcePorts, source: Source, bytesMax: number): Promise<string> {
  switch (source.kind) {
    case 'command':
      return titled(`$ ${source.argv.join(' ')}`, await outputOf(ports, source, bytesMax))
    case 'file':
      return titled(source.path, endOf(ports.disk, source.path, bytesMax))
    case 'folder':
      return folderText(ports.disk, source.path, source.named, bytesMax)
    case 'text':
      try {
        return titled(source.title, await source.make())
      } catch (error) {
        return titled(source.title, leftOut(`this could not be looked at: ${messageOf(error)}`))
      }
  }
}

function titled(title: string, text: string): string {
  return `==> ${title}\n${text}${text === '' || text.endsWith('\n') ? '' : '\n'}`
}

/** A remark of smith's own inside a file of the report. */
export function leftOut(text: string): string {
  return `[smith: ${text}]`
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The end of a regular file, from the beginning of a line on, since half a line may be half a secret. */
export function endOf(disk: Disk, path: string, bytesMax: number): string {
  try {
    const facts = disk.factsOf(path)
    if (facts === null) return leftOut('there is no such file')
    if (facts.kind !== 'file')
      return leftOut(
        `this is no regular file but a ${facts.kind === 'other' ? 'device, socket or FIFO' : facts.kind}, so it was not read`,
      )
    const from = Math.max(0, facts.size - bytesMax)
    const bytes = disk.read(path, from, bytesMax)
    if (from === 0) return bytes.toString('utf8')
    const line = bytes.indexOf(0x0a) + 1
    if (line === 0) return leftOut(`its last line has more than ${bytesMax} bytes and is left out`)
    return `${leftOut(`the first ${from + line} of ${facts.size} bytes are left out`)}\n${bytes.subarray(line).toString('utf8')}`
  } catch (error) {
    return leftOut(`it could not be read: ${codeOf(error) || messageOf(error)}`)
  }
}

function folderText(disk: Disk, path: string, named: RegExp, bytesMax: number): string {
  let names: string[]
  try {
    names = listNames(disk, path).filter((name) => named.test(name))
  } catch (error) {
    return titled(path, leftOut(`it could not be looked into: ${codeOf(error) || messageOf(error)}`))
  }
  const shown = names.slice(0, FOLDER_FILES_MAX)
  const each = Math.floor(bytesMax / Math.max(1, shown.length))
  return [
    ...(names.length === 0 ? [titled(path, leftOut('nothing of that kind is in it'))] : []),
    ...shown.map((name) => titled(join(path, name), endOf(disk, join(path, name), each))),
    ...(names.length > shown.length ? [leftOut(`${names.length - shown.length} more files are left out`)] : []),
  ].join('\n')
}

type Command = Extract<Source, { kind: 'command' }>

/** What a program prints; it is killed with its children when it prints too much or for too long. */
export function outputOf(ports: SourcePorts, command: Command, bytesMax: number): Promise<string> {
  const [program = '', ...args] = command.argv
  const limitMs = Math.min(command.timeMs ?? COMMAND_MS_MAX, ports.leftMs())
  if (limitMs <= 0) return Promise.resolve(leftOut('left out, because the time for the report was over'))
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      cwd: '/',
      env: { ...ports.environment },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    const kept = createKept(bytesMax, command.keeps === 'end')
    let isOver = false
    const end = (remark: string | null) => {
      if (isOver) return
      isOver = true
      clearTimeout(timer)
      killGroup(child.pid)
      child.stdout.destroy()
      child.stderr.destroy()
      child.unref()
      resolve(printed(kept.text(), command.only, remark))
    }
    // One that hangs in the kernel can't be killed and is not waited for.
    const timer = setTimeout(() => end(leftOut(`it was ended after ${limitMs / 1000} s`)), limitMs)
    const take = (chunk: Buffer) => {
      if (!isOver && kept.take(chunk)) end(leftOut(`only the first ${bytesMax} bytes are here`))
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    child.on('error', (error) =>
      end(
        leftOut(
          codeOf(error) === 'ENOENT' ? `${program} is not installed here` : `it could not be started: ${error.message}`,
        ),
      ),
    )
    child.on('close', (status, signal) =>
      end(status === 0 ? null : leftOut(signal === null ? `exit status ${status}` : `ended by ${signal}`)),
    )
  })
}

/** `take` answers whether enough was taken; of what is kept from its end there is never enough. */
function createKept(bytesMax: number, isEnd: boolean) {
  const chunks: Buffer[] = []
  let bytes = 0
  let dropped = 0
  return {
    take: (chunk: Buffer): boolean => {
      chunks.push(isEnd ? chunk : chunk.subarray(0, Math.max(0, bytesMax - bytes)))
      bytes += chunk.length
      if (!isEnd) return bytes > bytesMax
      for (
        let first = chunks[0];
        first !== undefined && bytes - dropped - first.length >= bytesMax;
        first = chunks[0]
      ) {
        dropped += first.length
        chunks.shift()
      }
      return false
    },
    text: (): string => {
      const all = Buffer.concat(chunks)
      if (!isEnd || (dropped === 0 && all.length <= bytesMax)) return all.toString('utf8')
      const tail = all.subarray(Math.max(0, all.length - bytesMax))
      const line = tail.indexOf(0x0a) + 1
      return `${leftOut(`the first ${bytes - tail.length + line} bytes are left out`)}\n${tail.subarray(line).toString('utf8')}`
    },
  }
}

function printed(text: string, only: RegExp | undefined, remark: string | null): string {
  const lines =
    only === undefined
      ? text
      : text
          .split('\n')
          .filter((line) => only.test(line))
          .join('\n')
  const whole = lines === '' || lines.endsWith('\n') ? lines : `${lines}\n`
  return remark === null ? whole : `${whole}${remark}\n`
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return
  try {
    process.kill(-pid, 'SIGKILL')
  } catch (error) {
    // It has ended, as most have by now.
    if (codeOf(error) !== 'ESRCH') throw error
  }
}
