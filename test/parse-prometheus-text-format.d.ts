declare module 'parse-prometheus-text-format' {
  /** Throws for what is not of the format. */
  export default function parse(text: string): { name: string; help: string; type: string; metrics: object[] }[]
}
