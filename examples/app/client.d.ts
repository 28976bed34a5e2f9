// The build puts the client beside this page, as client.js.
export * from '../../client/index.ts'
